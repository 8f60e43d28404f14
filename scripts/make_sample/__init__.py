"""Makes the sample that `ultrafuser demo` trains and tests on: our prompts, an open model's answers, our own maths."""
