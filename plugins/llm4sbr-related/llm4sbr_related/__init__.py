"""LLMs as recommenders, as baselines of llm4sbr that ask an LLM about test sessions."""
