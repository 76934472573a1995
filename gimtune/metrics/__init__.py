"""What a trial measures, as pure functions; the table of metrics is `gimtune.vocabulary.METRICS`. Knows no Ray."""
