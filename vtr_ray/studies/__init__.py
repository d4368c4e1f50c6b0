"""The paper's studies: what is computed, and whether the paper's claim holds of it. No figures here."""
