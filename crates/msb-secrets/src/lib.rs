//! Secret placeholders: finding, replacing and refusing them.
