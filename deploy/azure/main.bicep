// Bridges in Azure Container Apps on a PostgreSQL that only they can reach, with their keys in a Key
// Vault and an identity that needs no secret. README.md beside this file has the commands.

@description('The beginning of all names.')
@minLength(3)
@maxLength(20)
param name string = 'engagement-bridge'

@description('Where everything is.')
param location string = resourceGroup().location

@description('The image, with its version or digest.')
param image string

@description('The bridges that run at the least. One more is a second machine, not more work done.')
@minValue(1)
param minReplicas int = 2

@description('The bridges that run at the most.')
param maxReplicas int = 4

@description('Settings of the bridge, as variables of its environment: `engagement-bridge settings` lists them.')
param settings object = {}

@description('The key that secrets are sealed under: 32 random bytes in base64. Needed the first time; left empty, what the vault has stays.')
@secure()
param masterKey string = ''

@description('The key of the operator. Needed the first time, like the master key.')
@secure()
param adminKey string = ''

@description('The password of the database, of letters and digits. Needed the first time, like the master key.')
@secure()
param databasePassword string = ''

@description('The size of the database machine.')
param databaseSku object = {
  name: 'Standard_D2ds_v5'
  tier: 'GeneralPurpose'
}

@description('A second database machine in another zone, to which each commit goes before it is answered.')
param isDatabaseRedundant bool = true

@description('The networks of the bridges and of the database. No other network that they shall reach may overlap.')
param addresses object = {
  all: '10.40.0.0/16'
  bridges: '10.40.0.0/23'
  database: '10.40.2.0/28'
}

var databaseName = 'bridge'
var serverName = '${name}-${uniqueString(resourceGroup().id)}'
// Key Vault Secrets User: may read secrets, and nothing else.
var secretsUser = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '4633458b-17de-408a-b874-0445c86b69e6')

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: name
  location: location
}

resource network 'Microsoft.Network/virtualNetworks@2024-05-01' = {
  name: name
  location: location
  properties: {
    addressSpace: {
      addressPrefixes: [addresses.all]
    }
    subnets: [
      {
        name: 'bridges'
        properties: {
          addressPrefix: addresses.bridges
          delegations: [
            {
              name: 'apps'
              properties: {
                serviceName: 'Microsoft.App/environments'
              }
            }
          ]
        }
      }
      {
        name: 'database'
        properties: {
          addressPrefix: addresses.database
          delegations: [
            {
              name: 'postgres'
              properties: {
                serviceName: 'Microsoft.DBforPostgreSQL/flexibleServers'
              }
            }
          ]
        }
      }
    ]
  }

  resource bridges 'subnets' existing = {
    name: 'bridges'
  }

  resource database 'subnets' existing = {
    name: 'database'
  }
}

resource zone 'Microsoft.Network/privateDnsZones@2024-06-01' = {
  name: '${name}.private.postgres.database.azure.com'
  location: 'global'
}

resource zoneLink 'Microsoft.Network/privateDnsZones/virtualNetworkLinks@2024-06-01' = {
  parent: zone
  name: name
  location: 'global'
  properties: {
    registrationEnabled: false
    virtualNetwork: {
      id: network.id
    }
  }
}

resource server 'Microsoft.DBforPostgreSQL/flexibleServers@2024-08-01' = {
  name: serverName
  location: location
  sku: databaseSku
  properties: {
    // The version that the bridge is tested with.
    version: '15'
    administratorLogin: 'bridge'
    administratorLoginPassword: empty(databasePassword) ? null : databasePassword
    storage: {
      storageSizeGB: 64
      autoGrow: 'Enabled'
    }
    backup: {
      backupRetentionDays: 14
      geoRedundantBackup: 'Disabled'
    }
    highAvailability: {
      mode: isDatabaseRedundant ? 'ZoneRedundant' : 'Disabled'
    }
    network: {
      delegatedSubnetResourceId: network::database.id
      privateDnsZoneArmResourceId: zone.id
      publicNetworkAccess: 'Disabled'
    }
  }
  dependsOn: [zoneLink]

  resource database 'databases' = {
    name: databaseName
  }
}

resource vault 'Microsoft.KeyVault/vaults@2023-07-01' = {
  name: 'kv-${uniqueString(resourceGroup().id)}'
  location: location
  properties: {
    tenantId: tenant().tenantId
    sku: {
      family: 'A'
      name: 'standard'
    }
    enableRbacAuthorization: true
    enableSoftDelete: true
    softDeleteRetentionInDays: 90
    enablePurgeProtection: true
  }
}

resource masterKeySecret 'Microsoft.KeyVault/vaults/secrets@2023-07-01' = if (!empty(masterKey)) {
  parent: vault
  name: 'master-key'
  properties: {
    value: masterKey
  }
}

resource adminKeySecret 'Microsoft.KeyVault/vaults/secrets@2023-07-01' = if (!empty(adminKey)) {
  parent: vault
  name: 'admin-key'
  properties: {
    value: adminKey
  }
}

resource databaseSecret 'Microsoft.KeyVault/vaults/secrets@2023-07-01' = if (!empty(databasePassword)) {
  parent: vault
  name: 'database'
  properties: {
    value: 'postgres://bridge:${databasePassword}@${server.properties.fullyQualifiedDomainName}/${databaseName}'
  }
}

resource mayRead 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: vault
  name: guid(vault.id, identity.id, secretsUser)
  properties: {
    principalId: identity.properties.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: secretsUser
  }
}

resource logs 'Microsoft.OperationalInsights/workspaces@2023-09-01' = {
  name: name
  location: location
  properties: {
    sku: {
      name: 'PerGB2018'
    }
    retentionInDays: 30
  }
}

resource environment 'Microsoft.App/managedEnvironments@2024-03-01' = {
  name: name
  location: location
  properties: {
    vnetConfiguration: {
      infrastructureSubnetId: network::bridges.id
      internal: false
    }
    workloadProfiles: [
      {
        name: 'Consumption'
        workloadProfileType: 'Consumption'
      }
    ]
    zoneRedundant: true
    appLogsConfiguration: {
      destination: 'log-analytics'
      logAnalyticsConfiguration: {
        customerId: logs.properties.customerId
        sharedKey: logs.listKeys().primarySharedKey
      }
    }
  }
}

resource app 'Microsoft.App/containerApps@2024-03-01' = {
  name: name
  location: location
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identity.id}': {}
    }
  }
  properties: {
    environmentId: environment.id
    workloadProfileName: 'Consumption'
    configuration: {
      // A new version is asked whether it is ready before the old one goes.
      activeRevisionsMode: 'Single'
      ingress: {
        external: true
        targetPort: 8080
        transport: 'http'
        allowInsecure: false
      }
      secrets: [
        {
          name: 'database'
          keyVaultUrl: '${vault.properties.vaultUri}secrets/database'
          identity: identity.id
        }
        {
          name: 'master-key'
          keyVaultUrl: '${vault.properties.vaultUri}secrets/master-key'
          identity: identity.id
        }
        {
          name: 'admin-key'
          keyVaultUrl: '${vault.properties.vaultUri}secrets/admin-key'
          identity: identity.id
        }
      ]
    }
    template: {
      // 25 s to finish what it is at, and some to spare.
      terminationGracePeriodSeconds: 40
      containers: [
        {
          name: 'bridge'
          image: image
          resources: {
            cpu: json('0.5')
            memory: '1Gi'
          }
          env: concat(
            [
              {
                name: 'ENGAGEMENT_BRIDGE_DATABASE'
                secretRef: 'database'
              }
              {
                name: 'ENGAGEMENT_BRIDGE_MASTER_KEY_FILE'
                value: '/keys/master-key'
              }
              {
                name: 'ENGAGEMENT_BRIDGE_ADMIN_KEY_FILE'
                value: '/keys/admin-key'
              }
            ],
            map(items(settings), setting => {
              name: setting.key
              value: string(setting.value)
            })
          )
          probes: [
            {
              type: 'Startup'
              httpGet: {
                path: '/healthz'
                port: 8080
              }
              periodSeconds: 10
              failureThreshold: 10
            }
            {
              type: 'Liveness'
              httpGet: {
                path: '/healthz'
                port: 8080
              }
              periodSeconds: 10
              timeoutSeconds: 5
              failureThreshold: 6
            }
            {
              type: 'Readiness'
              httpGet: {
                path: '/readyz'
                port: 8080
              }
              periodSeconds: 5
              timeoutSeconds: 4
              failureThreshold: 2
            }
          ]
          volumeMounts: [
            {
              volumeName: 'keys'
              mountPath: '/keys'
            }
          ]
        }
      ]
      volumes: [
        {
          name: 'keys'
          storageType: 'Secret'
          secrets: [
            {
              secretRef: 'master-key'
              path: 'master-key'
            }
            {
              secretRef: 'admin-key'
              path: 'admin-key'
            }
          ]
        }
      ]
      scale: {
        minReplicas: minReplicas
        maxReplicas: maxReplicas
        rules: [
          {
            name: 'requests'
            http: {
              metadata: {
                concurrentRequests: '100'
              }
            }
          }
        ]
      }
    }
  }
  dependsOn: [mayRead, masterKeySecret, adminKeySecret, databaseSecret, server::database]
}

@description('Where apps reach the bridges.')
output address string = 'https://${app.properties.configuration.ingress.fqdn}'

@description('The client id of the identity, for `connections add --managed-identity user --client-id`.')
output identityClientId string = identity.properties.clientId

@description('The vault that has the keys.')
output vaultName string = vault.name
