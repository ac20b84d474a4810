"""Files of strangers, opened, bounded and parsed before anything trusts them; where ours lie."""
