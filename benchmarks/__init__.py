"""What is measured beside other frameworks: the speed (`benchmarks`) and the ends (`benchmarks.closing`)."""
