"""
Bulk files: a row is the activity it would send.

The path of a file, from top to bottom:

1. `reading`. `opening` finds the format; `csv_file`, `workbook` and `json_file` yield cells or
   values; `columns` says which column goes where, and `sources` makes an activity of each row
   (`cells`, `lead_columns`), or says what is wrong with it: that is a `row`. `settings` has the
   options, `identity` what makes two rows the same.
2. `comparing`. `comparison` gets from the `ledger`, two tables beside those of the outbox, what is
   known of the rows by the digests of their activities. `checking` looks up the `leads` of other
   rows, and checks these against the account's activity types. `matching` decides what to do with
   each row: that is the `plan`.
3. `posting` shows the plan, asks where a guess could lose or duplicate an activity, and posts.
4. `sending`. The `sender` puts new rows into the outbox (`entries`) and posts from there at the
   same time, with `progress` on the screen.
5. `reporting`. `outputs` writes what became of each row, and `showing` says it. `results` does that
   without posting.

`posting` and `results` run these steps. Each folder imports only from those above it.

No row is in memory: the rows of the file are in temporary files (`plan`), those of earlier runs
beside them.
"""
