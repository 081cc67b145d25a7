"""Who may use the API: the parts that the middleware and the sign-in share."""
