"""What a rollout is decided on, from the served log and the labels topic."""
