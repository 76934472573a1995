"""From what a person asks for to members that are resolved and checked."""
