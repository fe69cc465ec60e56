"""What notebooks show: a run live, the form that answers its tool calls. Given a client, never builds one."""
