"""Extensions of l4lb: a policy, a health check and a sink for the access log's records. Copy what you need."""
