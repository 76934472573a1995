"""What a study leaves behind, and what is known of it: needs neither torch nor Ray."""
