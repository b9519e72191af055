"""What an attacker does: triggers, poisoned samples, attackers who know the audit, and the training itself."""
