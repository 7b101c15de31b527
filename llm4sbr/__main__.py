"""`python -m llm4sbr`."""

from llm4sbr.cli import main

main()
