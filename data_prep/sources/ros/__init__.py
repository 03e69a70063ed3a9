"""What is in a ROS bag: its messages, clouds and transforms."""
