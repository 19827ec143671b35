"""From a plan to LeadSquared: rows go into the outbox, and are posted from there."""
