"""What operators ask and do: status, self-test, actions."""
