"""The process around the trainer: process group, signals, heartbeat, stacks, exit record."""
