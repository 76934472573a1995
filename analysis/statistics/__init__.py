"""What a study's numbers say, with their uncertainty. No plotting library."""
