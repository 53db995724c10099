"""`glm4v doctor`: what this machine has, and what is missing for which process."""
