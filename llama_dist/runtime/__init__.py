"""The process around the trainer: process group, signals, heartbeat, exit record."""
