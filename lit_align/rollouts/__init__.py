"""Text generation with the policy."""
