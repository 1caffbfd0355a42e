//! What JCM does, seen from outside: one module a suite, one test a sentence.

mod harness;
