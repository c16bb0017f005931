//! One certificate authority per sandbox, and the leaves it signs.
