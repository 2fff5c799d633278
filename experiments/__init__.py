"""One script per figure of the paper, benchmarks, notebooks; results/ holds what they measured."""
