"""Classifiers and policies: registered, put in force, and watched for whether they still fit the films."""
