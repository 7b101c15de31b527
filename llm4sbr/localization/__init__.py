"""From answers to intents: the answers read, the items encoded, and one source of answers localized."""
