"""Results that go back: made of an audit, sent, proven, and tried again."""
