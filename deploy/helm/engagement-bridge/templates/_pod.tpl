{{- define "bridge.pod" -}}
metadata:
  labels:
    {{- include "bridge.labels" . | nindent 4 }}
    {{- if .Values.workloadIdentity.enabled }}
    azure.workload.identity/use: "true"
    {{- end }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "bridge.serviceAccount" . }}
  # The bridge asks Kubernetes nothing.
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  # 5 s until nobody is sent here any more, 25 s to finish what it is at, and some to spare.
  terminationGracePeriodSeconds: 40
  containers:
    - name: bridge
      image: {{ include "bridge.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      env:
        - name: ENGAGEMENT_BRIDGE_LISTEN
          value: 0.0.0.0:8080
        {{- if .Values.metrics.enabled }}
        - name: ENGAGEMENT_BRIDGE_METRICS_LISTEN
          value: 0.0.0.0:9464
        {{- end }}
        {{- if include "bridge.isPostgres" . }}
        - name: ENGAGEMENT_BRIDGE_DATABASE
          valueFrom:
            secretKeyRef:
              name: {{ required "database.postgres.secretName: a Secret with the database's URL" .Values.database.postgres.secretName }}
              key: {{ .Values.database.postgres.secretKey }}
        {{- end }}
        {{- if .Values.keys.secretName }}
        - name: ENGAGEMENT_BRIDGE_MASTER_KEY_FILE
          value: /etc/engagement-bridge/keys/master-key
        - name: ENGAGEMENT_BRIDGE_ADMIN_KEY_FILE
          value: /etc/engagement-bridge/keys/admin-key
        {{- else if include "bridge.isPostgres" . }}
        {{- fail "keys.secretName: a Secret with master-key and admin-key, which all replicas share" }}
        {{- end }}
        {{- if .Values.tls.secretName }}
        - name: ENGAGEMENT_BRIDGE_TLS_CERTIFICATE_FILE
          value: /etc/engagement-bridge/tls/tls.crt
        - name: ENGAGEMENT_BRIDGE_TLS_KEY_FILE
          value: /etc/engagement-bridge/tls/tls.key
        {{- end }}
        {{- range $flag, $value := .Values.settings }}
        - name: ENGAGEMENT_BRIDGE_{{ $flag | upper | replace "-" "_" }}
          {{- /* A number comes as one of floating point, which would be written as 1e+06. */}}
          value: {{ ternary (printf "%.0f" $value) ($value | toString) (kindIs "float64" $value) | quote }}
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: http
          containerPort: 8080
        {{- if .Values.metrics.enabled }}
        - name: metrics
          containerPort: 9464
        {{- end }}
      # The tables are brought up to date before anything is answered.
      startupProbe:
        httpGet: {path: /healthz, port: http, scheme: {{ include "bridge.scheme" . }}}
        periodSeconds: 2
        failureThreshold: 150
      livenessProbe:
        httpGet: {path: /healthz, port: http, scheme: {{ include "bridge.scheme" . }}}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: http, scheme: {{ include "bridge.scheme" . }}}
        periodSeconds: 5
        timeoutSeconds: 4
        failureThreshold: 2
      lifecycle:
        preStop:
          sleep:
            seconds: 5
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - name: data
          mountPath: /data
        {{- if .Values.keys.secretName }}
        - name: keys
          mountPath: /etc/engagement-bridge/keys
          readOnly: true
        {{- end }}
        {{- if .Values.tls.secretName }}
        # Without `subPath`, with which what replaces the Secret would never get here.
        - name: tls
          mountPath: /etc/engagement-bridge/tls
          readOnly: true
        {{- end }}
        {{- if .Values.workloadIdentity.enabled }}
        - name: entra
          mountPath: /var/run/secrets/engagement-bridge/entra
          readOnly: true
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    {{- if include "bridge.isPostgres" . }}
    - name: data
      emptyDir:
        sizeLimit: 16Mi
    {{- else if .Values.database.sqlite.existingClaim }}
    - name: data
      persistentVolumeClaim:
        claimName: {{ .Values.database.sqlite.existingClaim }}
    {{- end }}
    {{- if .Values.keys.secretName }}
    - name: keys
      secret:
        secretName: {{ .Values.keys.secretName }}
        defaultMode: 0440
        items:
          - {key: master-key, path: master-key}
          - {key: admin-key, path: admin-key}
    {{- end }}
    {{- if .Values.tls.secretName }}
    - name: tls
      secret:
        secretName: {{ .Values.tls.secretName }}
        defaultMode: 0440
    {{- end }}
    {{- if .Values.workloadIdentity.enabled }}
    - name: entra
      projected:
        defaultMode: 0440
        sources:
          - serviceAccountToken:
              path: token
              audience: {{ .Values.workloadIdentity.audience }}
              expirationSeconds: 3600
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
  {{- else if include "bridge.isMany" . }}
  topologySpreadConstraints:
    {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "bridge.selector" $ | nindent 10 }}
      matchLabelKeys: [pod-template-hash]
    {{- end }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
