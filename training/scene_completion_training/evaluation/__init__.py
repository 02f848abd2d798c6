"""Protocols: run a student on recorded data and feed the metrics of `scene_completion_ros.evaluation`."""
