"""What people get to see: the plan, and what became of each row."""
