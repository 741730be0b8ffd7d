"""What is copied into the projects of users; the tool itself never imports it."""
