"""What follows a verdict: review, watch list, maps on demand, the vendor's numbers beside ours, hold or release."""
