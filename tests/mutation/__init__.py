"""Mutation testing of the modules in which a slip would cost a Pod: rules, labels, suspects, guard."""
