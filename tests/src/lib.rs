//! Harness, contract suites and the one integration binary.
