"""Trade-off studies of generative-inference models: representation against generation."""
