"""What labelled predictions say: accuracy, uncertainty, the worth of views, and which of several is better."""
