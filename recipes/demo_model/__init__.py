"""The recipe of the demo model: its images, questions, training and scores."""
