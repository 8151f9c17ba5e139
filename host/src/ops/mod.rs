//! Operations whose gradients are always right, and fast on the CPU.
