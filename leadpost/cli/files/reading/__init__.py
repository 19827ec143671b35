"""From a file to rows: each is the activity it would send, or what is wrong with it."""
