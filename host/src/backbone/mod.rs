//! Frozen pretrained backbones with hooks at every adaptable layer.
