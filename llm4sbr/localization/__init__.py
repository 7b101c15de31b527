"""From answers to intents: reading the answers, the items' vectors, and localizing one source of answers."""
