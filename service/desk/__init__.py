"""What follows a verdict: review, watch list, vendor comparison, release."""
