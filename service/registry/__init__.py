"""Classifiers and policies: registered, put in force, still fitting?"""
