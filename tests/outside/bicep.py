"""Reads a Bicep file by a grammar of Bicep, and asks Azure's own libraries about each property in it:
whether there is one of that name, and whether a word is one of those that it may have.

    bicep.py FILE    prints what it takes for a fault, and how much it has looked at

Bicep's compiler would know the same and more, but no registry of packages has it.
"""

import ast
import importlib.util
import sys
from pathlib import Path

import tree_sitter_bicep
from tree_sitter import Language, Parser

# The library and the class that describe a type of resource. The other types are not looked into.
KNOWN = {
    "Microsoft.App/containerApps": ("appcontainers", "ContainerApp"),
    "Microsoft.App/managedEnvironments": ("appcontainers", "ManagedEnvironment"),
    "Microsoft.DBforPostgreSQL/flexibleServers": ("postgresqlflexibleservers", "Server"),
    "databases": ("postgresqlflexibleservers", "Database"),
    "Microsoft.KeyVault/vaults": ("keyvault", "VaultCreateOrUpdateParameters"),
    "Microsoft.KeyVault/vaults/secrets": ("keyvault", "SecretCreateOrUpdateParameters"),
    "Microsoft.Network/virtualNetworks": ("network", "VirtualNetwork"),
    "Microsoft.Network/privateDnsZones": ("privatedns", "PrivateZone"),
    "Microsoft.Network/privateDnsZones/virtualNetworkLinks": ("privatedns", "VirtualNetworkLink"),
    "Microsoft.OperationalInsights/workspaces": ("loganalytics", "Workspace"),
}
# What is Bicep's own, or has the name in the path and not in the class.
BICEPS = {"name", "parent", "scope", "dependsOn"}


class Library:
    """The classes of one of Azure's libraries, read and not run."""

    def __init__(self, name):
        package = Path(importlib.util.find_spec(f"azure.mgmt.{name}").origin).parent / "models"
        self.classes, self.words = {}, {}
        for file in package.glob("*.py"):
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, ast.ClassDef):
                    self.classes[node.name] = node
                    words = [it.value.value for it in node.body
                             if isinstance(it, ast.Assign) and isinstance(it.value, ast.Constant)]
                    if any("Enum" in ast.unparse(base) for base in node.bases):
                        self.words[node.name] = words

    def properties(self, name):
        """The properties of a class and of those that it is made from: name in JSON → type."""
        found = {}
        node = self.classes[name]
        for base in node.bases:
            if (parent := ast.unparse(base).rpartition(".")[2]) in self.classes:
                found |= self.properties(parent)
        for it in node.body:
            if isinstance(it, ast.AnnAssign) and isinstance(it.value, ast.Call):
                named = [word.value.value for word in it.value.keywords if word.arg == "name"]
                found[named[0] if named else it.target.id] = ast.unparse(it.annotation)
        return found

    def named(self, annotation, among):
        """Which of these classes a type names, if any."""
        parts = annotation.replace("_models.", " ").replace("'", " ").replace("]", " ").replace("[", " ")
        return next((part for part in parts.replace(",", " ").split() if part in among), None)


class Judge:
    def __init__(self, source):
        self.source, self.faults, self.seen = source, [], 0

    def text(self, node):
        return self.source[node.start_byte:node.end_byte].decode()

    def fault(self, node, what):
        self.faults.append(f"line {node.start_point[0] + 1}: {what}")

    def object(self, library, name, node, besides=frozenset()):
        properties = library.properties(name)
        for child in node.named_children:
            if child.type != "object_property":
                continue
            key, value = child.named_children[0], child.named_children[-1]
            word = self.text(key)
            if word in besides or key.type != "identifier":
                continue
            self.seen += 1
            if word not in properties:
                self.fault(child, f"{name} has no {word}")
                continue
            self.value(library, properties[word], value)

    def value(self, library, annotation, node):
        if node.type == "object":
            if (name := library.named(annotation, library.classes)) and name not in library.words:
                self.object(library, name, node)
        elif node.type == "string":
            words = library.words.get(library.named(annotation, library.words), [])
            word = self.text(node).strip("'")
            if words and "${" not in word and word not in words:
                self.fault(node, f"{word} is none of {words}")
        else:
            # Lists, and what chooses between values.
            for child in node.named_children:
                if child.type in ("object", "array", "string", "ternary_expression"):
                    self.value(library, annotation, child)


def resources(node):
    if node.type == "resource_declaration":
        yield node
    for child in node.named_children:
        yield from resources(child)


def main(path):
    source = Path(path).read_bytes()
    tree = Parser(Language(tree_sitter_bicep.language())).parse(source)
    judge = Judge(source)

    def walk(node):
        if node.is_error or node.is_missing:
            judge.fault(node, "this is no Bicep")
        for child in node.children:
            walk(child)

    walk(tree.root_node)
    libraries = {}
    for resource in resources(tree.root_node):
        kind = judge.text(next(it for it in resource.named_children if it.type == "string"))
        kind = kind.strip("'").partition("@")[0]
        body = [it for it in resource.named_children if it.type in ("object", "if_statement")]
        if kind not in KNOWN or not body or "existing" in judge.text(resource).partition("{")[0]:
            continue
        body = body[-1]
        if body.type != "object":
            body = next(it for it in body.named_children if it.type == "object")
        name, model = KNOWN[kind]
        library = libraries.setdefault(name, Library(name))
        judge.object(library, model, body, BICEPS)
    print("\n".join(judge.faults), end="\n" if judge.faults else "")
    print(f"{judge.seen} properties", file=sys.stderr)
    sys.exit(1 if judge.faults or judge.seen < 50 else 0)


main(sys.argv[1])
