"""What is written into a run folder and printed: tables, LaTeX, references, command lines."""
