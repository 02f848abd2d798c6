#!/bin/bash
# Runs a command with ROS 2 sourced.
set -eo pipefail
. "/opt/ros/${ROS_DISTRO}/setup.bash"
exec "$@"
