"""A launch file, run by launch itself until it is over or interrupted: `run_launch_file.py FILE name:=value ...`."""

import sys

from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

if __name__ == "__main__":
    given = [(name, value) for name, _, value in (argument.partition(":=") for argument in sys.argv[2:])]
    service = LaunchService()
    source = PythonLaunchDescriptionSource(sys.argv[1])
    service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=given)]))
    sys.exit(service.run())
