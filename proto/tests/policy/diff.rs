//! Each kind of change that `diff` tells.
