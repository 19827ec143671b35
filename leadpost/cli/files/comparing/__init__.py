"""From rows to a plan: what is known of them from earlier runs, and from the account."""
