"""Heads: how models turn a feature map or a feature vector into their answer."""
