"""
Bulk files: a row is the activity it would send.

The path of a file, from top to bottom:

1. Read. `opening` finds the format; `csv_file`, `workbook` and `json_file` yield cells or values;
   `columns` says which column goes where, and `rows` makes an activity of each row (`cells`), or
   says what is wrong with it. `reading` has the options.
2. Compare. `comparing` goes through the rows in three steps. `matching` looks them up in the
   `ledger`, two tables beside those of the outbox, by the digests of their activities (`identity`).
   `checking` looks up the leads of new rows (`leads`), and checks these rows against the account's
   activity types. Then each row gets a verdict: that is the `plan`.
3. Ask. `posting` shows the plan (`showing`), and asks where a guess could lose or duplicate an
   activity.
4. Send. `sending` puts new rows into the outbox (`entries`) and posts from there at the same time,
   with `progress` on the screen.
5. Results. `outcomes` says what became of each row, and `outputs` writes it. `looking` does that
   without posting.

In memory is only what rows are compared by; what stands in them is in a temporary file.
"""
