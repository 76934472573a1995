"""One member's formula, pure: loss = -likelihood + sum of weight x divergence(match)."""
